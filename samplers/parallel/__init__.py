"""Work spread over worker processes, each with a card of its own, by Ray; imported only when somebody asks for it."""
