"""FastAPI routers for our own paths."""
