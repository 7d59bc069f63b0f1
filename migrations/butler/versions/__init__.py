"""One file a version, numbered in order. A file that was released is never changed."""
