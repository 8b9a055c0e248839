"""Access to files: local disks, HTTP, S3, Google Cloud Storage, the Hugging Face Hub."""
