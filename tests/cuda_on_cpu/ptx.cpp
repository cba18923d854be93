// The emulator alone: kernels come as PTX, by cuda_on_cpu_launch_ptx.
