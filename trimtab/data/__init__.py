"""Files in every common format -> records; chat template -> token ids and trained spans; a preview of both."""
