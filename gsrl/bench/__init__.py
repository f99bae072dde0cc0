"""Suites of runs, and what came out of them: tables, statistics, pictures and a page. Needs the extra ``bench``."""
