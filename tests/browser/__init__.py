"""Pages in a real browser: headless Chromium, found on the machine; screenshots stay in build/screenshots."""
