"""Django's own tests that our runner does not pass, because they test implementation details."""

# The test's id, and the reason.
INTERNALS = {
    "test_runner.test_parallel.ParallelTestSuiteTest.test_buffer_mode_reports_setupclass_failure":
        "a mock of multiprocessing.Pool has the results that it expects to be told",
    "test_runner.tests.TestRunnerInitializerTests.test_no_initialize_suite_test_runner":
        "expects the suite to make a multiprocessing.Pool",
    "test_runner.test_discover_runner.DiscoverRunnerTests.test_pdb_with_parallel":
        "ours says the same with a CommandError, which manage.py shows without a traceback",
    "backends.base.test_creation.TestDbCreationTests.test_serialize_deprecation":
        "the warning names the caller of Django's method, which is a module of ours",
}  # fmt: skip
