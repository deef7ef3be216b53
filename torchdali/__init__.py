"""torchdali"""
