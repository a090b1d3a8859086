/**
 * The base images that can be made from Debian packages, by the name that Dockerfiles call them.
 * @type {Readonly<Record<string, { rootfs: import('./rootfs.mjs').RootfsRecipe, changes: readonly string[], onRequest?: true }>>}
 * `onRequest`: it is large, and made only where it is named.
 */
export const BASE_IMAGES = {
  'python:3.11-slim': {
    // Debian 12's python3 is 3.11.
    rootfs: {
      release: 'bookworm',
      packages: ['python3', 'ca-certificates'],
      links: { '/usr/bin/python': 'python3' },
    },
    changes: [
      'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin',
      'ENV LANG=C.UTF-8',
      'CMD ["python3"]',
    ],
  },
  'node:20-trixie-slim': {
    // Debian 13's nodejs is 20.19. With the library that engines of models need: where this image is used, packages can hardly be added.
    rootfs: { release: 'trixie', packages: ['nodejs', 'ca-certificates', 'libgomp1'], links: {} },
    changes: [
      'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin',
      'ENV LANG=C.UTF-8',
      'CMD ["node"]',
    ],
  },
  'python3-torch:trixie': {
    onRequest: true,
    // Debian 13's python3 is 3.13 and its PyTorch 2.6, for CPUs. With OpenBLAS it is several times as fast as with what it asks for itself.
    rootfs: {
      release: 'trixie',
      packages: ['python3-torch', 'libopenblas0-openmp', 'ca-certificates'],
      links: { '/usr/bin/python': 'python3' },
      // A third of all: what only AMD's GPUs need, PyTorch's own tests and those of its libraries.
      removed: [
        '/usr/lib/*/libLLVM*',
        '/usr/lib/*/libamd*',
        '/usr/lib/*/libhsa-runtime*',
        '/usr/lib/libtorch-test',
        '/usr/lib/python3/dist-packages/networkx',
        '/usr/lib/python3/dist-packages/*/tests',
        '/usr/lib/python3/dist-packages/*/*/tests',
      ],
    },
    changes: [
      'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin',
      'ENV LANG=C.UTF-8',
      'CMD ["python3"]',
    ],
  },
}
