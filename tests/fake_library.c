/* A library with one function, for the test that binds two. */
int moet_fake_one(void);

__attribute__((visibility("default"))) int moet_fake_one(void) { return 1; }
