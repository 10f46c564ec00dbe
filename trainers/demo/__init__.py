"""`lookback demo`: the whole loop on the embedded corpus, in minutes, with a report to look at."""
