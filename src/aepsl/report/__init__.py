"""The report: a static page, report/index.html, of what was mined, learnt and predicted."""
