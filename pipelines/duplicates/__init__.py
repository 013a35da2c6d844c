"""What a corpus has twice, or has from an evaluation set: keys through shuffles."""
