"""
The RabbitMQ part of ``make chaos``: classic and quorum queues that are handed over while processes, connections and the broker die.
"""
