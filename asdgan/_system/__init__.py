"""Under the house: files written whole, processes that end with their parent, the console."""
