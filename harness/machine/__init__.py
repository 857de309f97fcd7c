"""This machine and others: what they are, who uses their devices, what ranks leave there, what they tell meanwhile."""
