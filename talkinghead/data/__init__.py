"""Video, pictures and crops in; prepared shards and episodes to train on; video out."""
