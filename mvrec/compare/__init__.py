"""Which of several runs is better, and how sure that is."""
