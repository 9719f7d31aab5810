"""Who may call which route: roles x routes as data. A route that is not here is refused to everybody, and a test reads the table."""

from trimtab.label.accounts import ROLES

ALL = ROLES
STAFF = ("admin", "researcher")
REVIEW = (*STAFF, "reviewer")
ADMIN = ("admin",)
PUBLIC = ()  # without logging in

# The name of a route (its function's name) -> the roles that may call it.
ACCESS: dict[str, tuple[str, ...]] = {
    "login": PUBLIC, "login_do": PUBLIC, "setup": PUBLIC, "setup_do": PUBLIC, "health": PUBLIC,
    # everybody who is logged in; each sees and changes what is their own
    "home": ALL, "logout": ALL, "account": ALL, "password_do": ALL, "sessions_do": ALL,
    "instructions": ALL, "acknowledge_do": ALL, "start_do": ALL, "task": ALL, "mine": ALL, "questions": ALL, "question_do": ALL,
    "task_questions": ALL, "task_question_do": ALL,
    "api_next": ALL, "api_draft": ALL, "api_submit": ALL, "api_skip": ALL, "api_undo": ALL, "api_preview": ALL, "api_mine": ALL,
    "arena": ALL, "api_arena_ask": ALL, "api_arena_vote": ALL,
    # labels of others
    "review": REVIEW, "task_view": REVIEW, "review_do": REVIEW, "adjudicate_do": REVIEW, "task_message_do": REVIEW,
    # what a project is
    "dashboard": STAFF, "tasks_list": STAFF, "project_new": STAFF, "project_new_do": STAFF, "import_page": STAFF, "import_do": STAFF,
    "prompts_do": STAFF,
    "sample_do": STAFF, "settings_page": STAFF, "settings_do": STAFF, "guidelines": STAFF, "guidelines_do": STAFF, "overlap_do": STAFF,
    "close_do": STAFF, "gold_do": STAFF, "onboarding_do": STAFF, "export_page": STAFF, "export_file": STAFF, "api_progress": STAFF,
    # who works here
    "users_page": ADMIN, "user_new_do": ADMIN, "user_change_do": ADMIN, "user_link_do": ADMIN, "user_sessions_do": ADMIN, "journal": ADMIN,
}  # fmt: skip


def allowed(route: str, role: str | None) -> bool:
    """Whether somebody with this role (None: nobody is logged in) may call the route."""
    roles = ACCESS.get(route)
    return roles is not None and (roles == PUBLIC or role in roles)
