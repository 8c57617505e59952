"""How the acoustic model that ships was trained: corpus, teacher, network, objective. `difftalk train-speech` runs it."""
