for t in test_mmap test_threading; do for m in nat inline nodes; do bash /tmp/h2py.sh $t $m 28; done; done
