"""The two units of the machine's queue, as `gpurun machine on` writes them, each line of the hardening with its reason.

What must never stand there, as a service under it was seen to fail (systemd 257): PrivateUsers (every peer is uid 65534),
PrivatePIDs (peers have pid 0), PrivateNetwork (no claims), ProtectControlGroups (no freezer), ProcSubset=pid (no boot id); nor
PrivateDevices and DevicePolicy (the driver makes its nodes later), nor a MemoryMax that rows of one user can reach.
"""

SOCKET_UNIT, SERVICE_UNIT = "gpurun.socket", "gpurun.service"
FOLDER = "/etc/systemd/system"

SOCKET = """\
# Written by `gpurun machine on`; `gpurun machine off` removes it. To let in a group alone:
# systemctl edit gpurun.socket, with SocketGroup= and SocketMode=0660.
[Unit]
Description=Bell of gpurun, the machine's queue for GPUs
Documentation=man:gpurun-machine(8)

[Socket]
ListenSequentialPacket={bell}
SocketMode=0666
DirectoryMode=0755
Backlog=4096
RemoveOnStop=yes

[Install]
WantedBy=sockets.target
"""

SERVICE = """\
# Written by `gpurun machine on`; `gpurun machine off` removes it.
[Unit]
Description=gpurun, the machine's queue for GPUs
Documentation=man:gpurun-machine(8)
Requires=gpurun.socket
After=gpurun.socket
# With the default five crashes would fail the socket too, and everybody would be refused.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
# NVML makes the driver's nodes after a boot; here it has the rights for it.
ExecStartPre=-+nvidia-modprobe -u -c 0
ExecStart={python} -I -m gpuwrap machine run
# It leaves when no job is left; who rings starts it again.
Restart=on-failure
RestartSec=100ms
RestartSteps=6
RestartMaxDelaySec=5s
# Claims of GPUs stay bound while it is started anew.
FileDescriptorStoreMax=256
StateDirectory=gpurun
StateDirectoryMode=0700
# It lets everybody go on whom it paused, and leaves.
TimeoutStopSec=10s
LimitNOFILE=524288
# If memory runs out the kernel is to take somebody else: without it nobody comes back from a pause.
OOMScoreAdjust=-500

# Nothing that it starts gains rights.
NoNewPrivileges=yes
# It writes to its state folder, /run and cgroups, and nowhere else.
ProtectSystem=strict
# No user's files are its business: logs are written by the jobs' own side.
ProtectHome=yes
PrivateTmp=yes
# The bell and the claims are Unix sockets.
RestrictAddressFamilies=AF_UNIX
# It makes no namespace.
RestrictNamespaces=yes
LockPersonality=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
# KILL: signals to everybody's jobs. SYS_PTRACE: environment, folder, descriptors. DAC_READ_SEARCH: an environment is its
# owner's alone to read. DAC_OVERRIDE: cgroups in users' own trees. CHOWN: a group made there is its owner's.
CapabilityBoundingSet=CAP_KILL CAP_SYS_PTRACE CAP_DAC_READ_SEARCH CAP_DAC_OVERRIDE CAP_CHOWN
UMask=0077

[Install]
WantedBy=multi-user.target
"""


def texts(python: str, bell: str) -> dict[str, str]:
    """Return both units by name."""
    return {SOCKET_UNIT: SOCKET.format(bell=bell), SERVICE_UNIT: SERVICE.format(python=python)}
