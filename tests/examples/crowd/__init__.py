"""
10,000 interleaved requests with 50 keys through the shop: what is sent, who sends it, who serves it, and what must come of it.
"""
