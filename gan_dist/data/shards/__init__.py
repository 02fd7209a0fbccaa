"""The shard format: Parquet files of uint8 pixels and their manifest."""
