"""Pages, the buffer pool and the relation files (PostgreSQL's `storage/page`, `buffer` and `smgr`)."""
