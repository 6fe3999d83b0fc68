"""Which of several teachers to listen to."""
