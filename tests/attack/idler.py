"""Does nothing, with all the time that others leave it.

Usage: idler.py
"""
import os

os.nice(19)
print("ready", flush=True)
while True:
    pass
