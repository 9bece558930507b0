"""One HTML file for people who decide by looking: numbers, words, charts and pictures of an output; see page.py."""
