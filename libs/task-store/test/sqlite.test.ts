import { silentLogger } from '@gpu-service/tasks'
import { openTaskStore } from '../src/index.ts'
import { describeTaskStore } from './describe-task-store.ts'
import { temporaryFolder } from './fixtures.ts'

describeTaskStore('a task store on SQLite', () => {
  const folder = temporaryFolder()
  return Promise.resolve({
    open: () => openTaskStore({ url: `file:${folder.path}/tasks.db`, logger: silentLogger }),
    [Symbol.asyncDispose]() {
      folder[Symbol.dispose]()
      return Promise.resolve()
    },
  })
})
