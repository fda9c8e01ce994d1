"""What leaves gpurun for other programs to show: pictures and Prometheus metrics. Each needs an extra."""
