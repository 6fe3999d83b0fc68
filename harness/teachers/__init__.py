"""What trials share, made before them: rows and roles, fine-tuned teachers and their outputs."""
