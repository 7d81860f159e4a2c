"""
The built wheel, as users get it: with no extras, each alone, and all; on the oldest and the newest versions; on every Python. See noxfile.py.
"""
