"""Tools: who has which, and how they are run."""
