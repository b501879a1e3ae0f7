"""At which depth does a language model know what it is about to say?"""
