"""Students and teachers: loaded or built, cut to layers, with tokenizer, run and evaluated."""
