"""The HTML pages, a file for each kind of visitor."""

from trimtab.label.pages import arena, door, home, manage, people, research, reviewing, work

ROUTERS = (
    door.router,
    home.router,
    work.router,
    research.router,
    manage.router,
    reviewing.router,
    people.router,
    arena.router,
)
