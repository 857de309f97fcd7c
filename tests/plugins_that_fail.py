raise ImportError("planted: a library that is installed and does not import")
