"""What is kept between runs: read strictly, written whole, found again, held to each other."""
