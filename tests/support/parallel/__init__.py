"""Workers for tests: played ones, a plain process, and Ray's."""
