"""The entry point of Alembic.

The migrations run on the connection and in the transaction that the store opened.
"""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
