"""Actions of people in videos: who is where, linked to tracks, and what each one does."""
