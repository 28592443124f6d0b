"""The demo plant: six machine types made of synthetic sound, in a release's layout."""
