"""The documentation's pages, and the code that draws their pictures."""
