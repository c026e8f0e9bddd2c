/* unit_suite.h - what the main() of every test program does with Check. */
#ifndef UNIT_SUITE_H
#define UNIT_SUITE_H

#include <check.h>

/* unit_case - a new test case of the suite; each of its tests may take that long. */
static inline TCase *unit_case(Suite *suite, const char *name, double timeout_s)
{
    TCase *tc = tcase_create(name);
    tcase_set_timeout(tc, timeout_s);
    suite_add_tcase(suite, tc);
    return tc;
}

/* unit_run - Returns: the program's exit status. */
static inline int unit_run(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}

#endif
