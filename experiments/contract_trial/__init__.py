"""Small studies of systems that a naive contract would not carry; see each module."""
