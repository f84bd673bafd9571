"""Development tools of the repository; nothing here is installed with the package."""
