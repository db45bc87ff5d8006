"""Words of any office that come with the service: `office.csv`, a group of words that stand for one another a line."""
