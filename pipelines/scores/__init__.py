"""What models say of documents and pictures, and what is kept for it."""
