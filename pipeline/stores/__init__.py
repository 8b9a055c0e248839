"""Files wherever they lie: disks, HTTP, S3, Google Cloud Storage, the Hugging Face Hub."""
