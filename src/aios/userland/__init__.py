"""Programs that run on the SDK alone, as anybody's would."""
