"""The record: what was intended and what came of it, before anybody hears of it."""
