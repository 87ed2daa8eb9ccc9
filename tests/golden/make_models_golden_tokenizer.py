def write_tokenizer(folder, config):
    pass
