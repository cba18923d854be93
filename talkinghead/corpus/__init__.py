"""Videos of many people -> the data set that training reads."""
