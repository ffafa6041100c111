"""What an agent's author imports; `aios` itself re-exports it."""
